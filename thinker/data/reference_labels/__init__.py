"""Labels without raters: pristine videos of one's own → degraded clips, each with a label that is
measured against the video that it was made from (full-reference quality: VMAF, SSIM, XPSNR).

- `settings.py`, `conditions.py`: what is made of a source, as a YAML says it
- `scan.py`, `shots.py`, `plan.py`: source → motion of its parts, shots → windows and crops, sides
- `planes.py`, `codec.py`, `degrade.py`: pictures of a window → degraded pictures and their file
- `measure.py`, `vmaf.py`: both → the label
- `window.py`, `make.py`: all clips of one window, in a worker process; the run over all of them
- `write.py`, `sheet.py`: label files, manifest, contact sheet

`thinker.data.labels` is another thing: it reads the sheets of labels that raters gave.
"""
