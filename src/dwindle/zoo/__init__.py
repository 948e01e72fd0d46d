"""Networks of the literature; each module holds one builder of the same name, so that importing one costs no other."""
