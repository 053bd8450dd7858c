package wire

import "strings"

// tools reads an array of tools. Those that search the web are taken out when strip is set; all others that the agent does not run by itself are refused.
func (p *parser) tools(strip bool) {
	if p.null() {
		return
	}
	if p.peek() != '[' {
		p.refuse(CodeTool, "the field tools must be an array")
		return
	}
	first := p.i + 1 // behind the bracket
	kept := -1       // end of the last tool that stays
	leading := false // a tool before the first one that stays goes
	for start := range p.elements {
		searches := p.tool(strip)
		switch {
		case p.bad:
			return
		case searches && kept < 0:
			leading = true
			continue
		case searches: // with the comma before it
			p.edit(kept, p.i, "")
		case leading: // up to the first that stays, so with the comma behind it
			p.edit(first, start, "")
			leading = false
		}
		kept = p.i
	}
	if leading && !p.bad {
		p.edit(first, p.i-1, "")
	}
}

// tool reads one tool, and reports whether it is to be taken out.
func (p *parser) tool(strip bool) (searches bool) {
	if p.peek() != '{' {
		p.refuse(CodeTool, "a tool must be an object")
		return false
	}
	var kind, environment, execution string
	var seen [4]bool
	for name := range p.members {
		plain, odd := plainName(name)
		var which int
		switch string(plain) {
		case "type":
			which = 0
		case "environment":
			which = 1
		case "execution":
			which = 2
		case "tools":
			which = 3
		default:
			p.skip()
			continue
		}
		if odd || seen[which] {
			p.refuse(CodeTool, "the field "+quoted(plain)+" of a tool is there twice or in other letters")
			return false
		}
		seen[which] = true
		switch which {
		case 0:
			kind = p.stringOr("")
		case 1:
			environment = p.typeOf()
		case 2:
			execution = p.stringOr("")
		case 3:
			p.tools(false)
		}
	}
	switch {
	case p.bad:
	case strip && strings.HasPrefix(kind, "web_search"):
		return true
	case !local(kind):
		p.refuse(CodeTool, "the tool "+quoted(kind)+" would be run by the provider, which scans must not use")
	case kind == "shell" && environment != "local":
		p.refuse(CodeTool, `the tool "shell" must have an environment of the type "local"`)
	case kind == "tool_search" && execution != "client":
		p.refuse(CodeTool, `the tool "tool_search" must have the execution "client"`)
	}
	return false
}

// local reports whether tools of that type are run by the agent. All others are taken for hosted ones, so one that is new is refused until it is known here.
func local(kind string) bool {
	switch kind {
	case "function", "custom", "namespace", "local_shell", "shell", "apply_patch", "tool_search":
		return true
	}
	return false
}

// choice reads tool_choice, which must not name what the provider would run.
func (p *parser) choice() {
	switch p.peek() {
	case '"':
		mode, _ := p.str()
		if mode != "none" && mode != "auto" && mode != "required" {
			p.refuse(CodeTool, "the tool_choice "+quoted(mode)+" is not known here")
		}
	case '{':
		p.chosen()
	default:
		if !p.null() {
			p.refuse(CodeTool, "the field tool_choice must be a string or an object")
		}
	}
}

// chosen reads what names a tool, or several in lists: every type in it must be one that the agent runs by itself.
func (p *parser) chosen() {
	switch p.peek() {
	case '{':
		for name := range p.members {
			if plain, _ := plainName(name); string(plain) != "type" {
				p.chosen()
			} else if kind := p.stringOr(""); !local(kind) && kind != "allowed_tools" {
				p.refuse(CodeTool, "the tool_choice "+quoted(kind)+" names a tool that scans must not use")
			}
		}
	case '[':
		for range p.elements {
			p.chosen()
		}
	default:
		p.skip()
	}
}

// stringOr reads a string; another value is skipped.
func (p *parser) stringOr(other string) string {
	if s, ok := p.str(); ok {
		return s
	}
	p.skip()
	return other
}

// typeOf reads an object and returns the one type that it has; empty: it has none, or several.
func (p *parser) typeOf() string {
	if p.peek() != '{' {
		p.skip()
		return ""
	}
	kind, types := "", 0
	for name := range p.members {
		if plain, _ := plainName(name); string(plain) != "type" {
			p.skip()
			continue
		}
		types++
		kind = p.stringOr("")
	}
	if types != 1 {
		return ""
	}
	return kind
}
