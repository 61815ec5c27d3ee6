"""`python -m thinker.peers` prints the folder of tasks that lmms-eval takes by `--include_path`."""

from thinker.peers.lmms_eval import TASKS_FOLDER

if __name__ == "__main__":
    print(TASKS_FOLDER)
