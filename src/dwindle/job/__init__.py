"""A job: one network, one data set, one recipe, and what is asked of the outcome; from job.toml to files and report."""
