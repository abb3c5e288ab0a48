"""Body composition: muscle and fat on axial slices at a vertebral level, in cm2 and HU.

level.py    where L3 (or another level) lies, from the score curve     slices.py   slices and the network's grid
tissues.py  tissues, HU rules, compartments                            measure.py  areas, densities, doubts
network.py  the candidates                                             training.py how they learn
job.py      files of a measurement                                     commands.py `bpr body-composition`
"""
