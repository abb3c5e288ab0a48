"""SEED: from a few corrected cases to a better model.

``project`` is the folder of corrected cases, ``marks`` says what of a case is right, ``segments`` reads what was drawn,
``cases`` turns it into training labels, ``finetune`` trains, ``memory`` keeps what the model knew, ``compare`` says
whether the new model is better, ``publish`` writes it as a bundle, ``defaults`` puts it into use.
"""
