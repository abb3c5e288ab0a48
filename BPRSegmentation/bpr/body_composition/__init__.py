"""Body composition: muscle and fat on axial slices at a vertebral level, in cm2 and HU.

Where the level is:   level.py (by the score curve), spine.py (pictures of the spine), counting.py (which vertebra is
                      which), pattern.py (its middle), spine_network.py, spine_training.py, spine_commands.py
What the slice shows: slices.py (slices and the network's grid), tissues.py (tissues, HU rules, compartments),
                      measure.py (areas, densities), doubts.py, network.py (the candidates), training.py
All together:         job.py, files.py, run.py and commands.py (`bpr body-composition`)
"""
