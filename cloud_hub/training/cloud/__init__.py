"""Jobs in the cloud: orders, trials and folds, the queue, what comes of them, what they cost."""
