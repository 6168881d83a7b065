"""``prunella`` as a process that stops in mid-run: of its arguments, the first is the step."""

import sys
from typing import Any

import transformers

from prunella.cli import main

if __name__ == "__main__":
    step, train = int(sys.argv[1]), transformers.Trainer.training_step

    def breaks_off(self: transformers.Trainer, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == step:
            raise KeyboardInterrupt
        return train(self, *args, **kwargs)

    transformers.Trainer.training_step = breaks_off
    sys.exit(main(sys.argv[2:]))
