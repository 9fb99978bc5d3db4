"""ArcticSeg: distributed training of networks that draw sea ice charts. Imports nothing by design."""
