"""Simulated labelers: for demos, load tests, and for showing that learning is real.

utilities   how good an answer is to them          choice   noise, rankings, the noise's scale
client      signing in and asking over HTTP        labeler  one of them at work     crew  several
statistics  agreement, win rates, intervals        round    a whole round, start to end
figures     what came out of a round, from rows    report   the table and the file of it
"""
