"""Released models as an API: the same preprocessing as on devices, requests batched."""
