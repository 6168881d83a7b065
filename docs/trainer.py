"""Prune with the Trainer, and resume: python docs/trainer.py MODEL FOLDER_WITH_SST2_TSV OUTPUT."""

import os
import sys
from pathlib import Path

import datasets
import transformers

from prunella import PINS, Cubic
from prunella.hf import PruningCallback

source, data, output = sys.argv[1:]
transformers.set_seed(0)  # of the new classification head
tokenizer = transformers.AutoTokenizer.from_pretrained(source)
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # GPT-2 has none
model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
model.config.pad_token_id = tokenizer.pad_token_id
files = {split: f"{data}/{split}.tsv" for split in ("train", "dev")}
rows = datasets.load_dataset("csv", data_files=files, delimiter="\t", quoting=3)
rows = rows.map(lambda row: tokenizer(row["sentence"], truncation=True, max_length=64))
trainer = transformers.Trainer(
    model,
    transformers.TrainingArguments(output, max_steps=1000, save_steps=100, save_total_limit=2),
    train_dataset=rows["train"],
    processing_class=tokenizer,
    callbacks=[pruning := PruningCallback(PINS(), Cubic(0.9))],
)
# Written last of all: where a process was killed while it saved, the checkpoint before counts.
complete = sorted(Path(output).glob("checkpoint-*/trainer_state.json"), key=os.path.getmtime)
trainer.train(resume_from_checkpoint=str(complete[-1].parent) if complete else None)
trainer.save_model(output)
print(pruning.pruner.summary(), trainer.evaluate(rows["dev"]), sep="\n")
