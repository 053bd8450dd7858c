package engine

import "context"

// OnStage calls f with the name of every stage that runs.
func (e *Engine) OnStage(f func(name string)) {
	for i, s := range e.stages {
		e.stages[i].run = func(r *run, ctx context.Context) (result, error) {
			f(s.name)
			return s.run(r, ctx)
		}
	}
}

// EnclosingSymbol is the name of what a line of a file lies in.
func EnclosingSymbol(name string, content []byte, line int) string {
	return enclosingSymbol(name, content, indexLines(content), line)
}
