package queuetest

import "testing"

func (s suite) faults(t *testing.T) {}
func (s suite) admin(t *testing.T)  {}
func (s suite) model(t *testing.T)  {}
func (s suite) scale(t *testing.T)  {}
