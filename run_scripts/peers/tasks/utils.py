"""What theirs.yaml names."""

import os

FILES = {"data_files": {"test": os.path.join(os.environ["THINKER_DATA"], "theirs.jsonl")}}


def videos(document):
    return [document["path"]]
