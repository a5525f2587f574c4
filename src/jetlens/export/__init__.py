"""Export: networks to deployable ONNX graphs, and graphs made elsewhere to models that every command can run."""
