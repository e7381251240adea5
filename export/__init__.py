"""Export and measurement: ONNX and engines that are proved equal to the trained network, and the stopwatch."""
