"""The main job on a real cluster: real nodes, real pods, the operator installed by its chart."""
