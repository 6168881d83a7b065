"""Names of the files that tell of a run; a folder with them is the folder of that run."""

RESULT = "result.json"
TRACE = "trace.json"
PREDICTIONS = "predictions.jsonl"
YAML = "prunella.yaml"  # its settings
PACKED = f"{PREDICTIONS}.gz"  # as people pack them, for they are long
OF_RUN = (RESULT, TRACE, PREDICTIONS, PACKED, YAML)
