"""One HTML file of runs, trainings and evaluations: numbers with intervals, pictures, and a sample of rows."""
