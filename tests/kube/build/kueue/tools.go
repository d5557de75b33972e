//go:build tools

// Package tools names the programs that are built from these modules.
package tools

import (
	_ "sigs.k8s.io/kueue/cmd/kueue"
)
