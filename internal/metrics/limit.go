package metrics

// LimitPipelines sets how many names of pipelines get labels of their own; those
// that have some keep them.
func (m *Metrics) LimitPipelines(most int) {
	m.pipelines.mu.Lock()
	defer m.pipelines.mu.Unlock()
	m.pipelines.most = most
}
