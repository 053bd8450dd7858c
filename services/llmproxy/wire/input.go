package wire

import "bytes"

// input reads the prompt: a text, or the items of a conversation. Its texts may say what they like. Its structure must not make the provider fetch an address,
// open a file, go back to an item that it has stored, or bring in a hosted tool.
func (p *parser) input() {
	if p.peek() != '[' {
		p.walk()
		return
	}
	for range p.elements {
		if p.peek() == '{' {
			p.item()
		} else {
			p.walk()
		}
	}
}

// item reads one item of a conversation.
func (p *parser) item() {
	kind, types, role := "", 0, false
	for name := range p.members {
		plain, odd := plainName(name)
		switch string(plain) {
		case "type":
			types++
			if odd || types > 1 {
				p.refuse(CodeField, "an item of the input has its type twice or in other letters")
				return
			}
			kind = p.stringOr("")
		case "role":
			role = p.peek() == '"'
			p.skip()
		case "tools": // of additional_tools and tool_search_output
			if odd {
				p.refuse(CodeField, "an item of the input has its tools in other letters")
				return
			}
			p.tools(true)
		default:
			p.member(plain)
		}
	}
	if kind == "item_reference" || kind == "" && !role {
		p.refuse(CodeField, "an item of the input refers to one that the provider has stored, which is not allowed here")
	}
}

// walk reads a value inside the input.
func (p *parser) walk() {
	switch p.peek() {
	case '{':
		for name := range p.members {
			plain, _ := plainName(name)
			p.member(plain)
		}
	case '[':
		for range p.elements {
			p.walk()
		}
	default:
		p.skip()
	}
}

// member reads one member of an object inside the input.
func (p *parser) member(name []byte) {
	switch string(name) {
	case "file_id":
		if !p.null() {
			p.refuse(CodeField, "the input names a file_id, a file that the provider has stored, which is not allowed here")
		}
	case "image_url", "file_url", "audio_url", "video_url":
		p.address(string(name))
	default:
		p.walk()
	}
}

// address reads where an image or a file is, which must be in the request itself.
func (p *parser) address(name string) {
	switch p.peek() {
	case '{': // as in chats: {"url": …}
		for inner := range p.members {
			if plain, _ := plainName(inner); string(plain) == "url" {
				p.address(name)
			} else {
				p.member(plain)
			}
		}
	case '"':
		const inline = "data:"
		inside, _ := p.text()
		if len(inside) < len(inline) || !bytes.EqualFold(inside[:len(inline)], []byte(inline)) {
			p.refuse(CodeField, "the input has a "+name+" that the provider would fetch; only data: is allowed here")
		}
	default:
		if !p.null() {
			p.refuse(CodeField, "the input has a "+name+" that is no string")
		}
	}
}
