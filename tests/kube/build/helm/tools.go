//go:build tools

// Package tools names the program that is built from these modules.
package tools

import (
	_ "helm.sh/helm/v3/cmd/helm"
)
