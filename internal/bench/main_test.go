package main

import (
	"testing"

	"github.com/hourvault/hourvault/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
