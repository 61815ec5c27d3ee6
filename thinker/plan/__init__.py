"""What training and scoring cost before they are run: time, memory, network and money.

`rates.py` holds what a GPU can do, `step.py` what a training step asks of it, `simulate.py` how
several processes and servers wait for each other, `scoring.py` an archive, `report.py` the text.
"""
