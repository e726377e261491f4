"""Whether the trainer learns, on real data: scripts that take hours, in units that are done once.

units    work that is not repeated, and its progress     figures  means with intervals, frontiers
pairs    preference data, folds, expanded pairs          policy   the small model, pretrained a little
probes   what a reward model has to beat                 language perplexity and minimal pairs
reward, known_reward, tax   the scripts                  report   their tables
"""
