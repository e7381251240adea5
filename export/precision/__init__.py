"""Lower precisions written into the ONNX graph: 16-bit casts, ranges, INT8 with its calibration, and what decides on it.

Every function takes the FP32 master as a model in memory and gives a new one; inputs and outputs keep names and types.
"""
