//go:build tools

// Package tools names the programs that are built from these modules.
package tools

import (
	_ "github.com/kserve/kserve/cmd/manager"
)
