"""docker-tracker: a Docker socket of one's own for every CI job, and nothing left behind."""
