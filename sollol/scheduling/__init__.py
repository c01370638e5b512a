"""Which request runs where, and when. Pure: values and the time in, decisions out, no I/O."""
