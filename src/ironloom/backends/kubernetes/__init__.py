"""A Kubernetes cluster: how it is found (kubeconfig), asked (client), and read whole (reader)."""
