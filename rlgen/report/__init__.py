"""One page about many runs: `rlgen report RUNS... --out report/`.

tables    what was run, how it scored, what it cost, as pandas tables
figures   curves, intervals, profiles, what curricula did
page      all of it as one HTML file, and as CSV, LaTeX and PDF
"""
