"""Labels → records of questions, in the forms that VQA² (arXiv 2411.03795) publishes.

`sources.py` reads what is known of media into `facts.py`; `stage1.py`, `stage2.py`, `stage3.py` and
`pairs.py` draft questions, worded by `wording.py`; `rewrite.py` has an endpoint word them anew;
`write.py` makes records of drafts, with what `media.py` finds out about the files, and has the one
reader of records read each of them. `build.py` holds the kinds.
"""
