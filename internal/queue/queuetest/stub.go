package queuetest

import "testing"

func (s suite) scale(t *testing.T) {}
