"""A local page of runs, trainings and evaluations: rows to read while they are written, and to label by hand."""
