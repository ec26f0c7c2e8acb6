"""Where training runs are carried out: on this machine, or as Ray jobs."""
