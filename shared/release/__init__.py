"""What a release is made of, and the proofs around it."""
