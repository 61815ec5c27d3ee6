"""Vision-language models whose frames are stretched to one square, with a motion branch, one file
each; `family.py` is what they share."""
