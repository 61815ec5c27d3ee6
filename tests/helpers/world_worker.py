"""Two processes that compare what they were given, run by tests/train/test_processes.py. What each
of them says stands in `told_N.jsonl` of the working folder: lines that both print may mix."""

import json
import sys

from accelerate import PartialState

from thinker.data.examples import Example
from thinker.prompts import ask
from thinker.train.processes import world


def main() -> None:
    state = PartialState(cpu=True)
    world.check_world(state)
    other = state.process_index == 1
    for what in ("nothing", "configuration", "data", "packages"):
        if what == "packages" and other:
            world._version = lambda package: "0.0" if package == "trl" else "1"
        elif what == "packages":
            world._version = lambda package: "1"
        seed = 1 if what == "configuration" and other else 0
        asked = "And what is that?" if what == "data" and other else "What is it?"
        example = Example(
            id="d/1", dataset="d", task="open", media=(), turns=ask(asked), content="1"
        )
        try:
            world.check_agreement({"seed": seed, "beta": 0.0}, [example])
        except world.WorldError as error:
            with open(f"told_{state.process_index}.jsonl", "a", encoding="utf-8") as told:
                told.write(json.dumps([what, state.process_index, str(error)]) + "\n")
        state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
