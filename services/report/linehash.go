package report

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
)

// lineHashBlock is how many characters a line's hash covers, counted from the start of the line and running on into the
// lines after it.
const lineHashBlock = 100

// LineHashes reads a file and calls each for every line, from 1, with the value that GitHub keeps as
// primaryLocationLineHash: "<hex>:<how many times this hash has occurred so far>". Values come up to a block of characters
// after their line was read, in order.
//
// The hash is a polynomial over the block's UTF-16 units (base 37, modulo 2^64) without blanks and tabs, with every kind of
// line end taken as a line feed, the end of the file as 65535 and zeros after it. So a line keeps its hash when
// its indentation changes or it moves together with what follows. It returns the first error of r other than io.EOF.
func LineHashes(r io.Reader, each func(line int, hash string)) error {
	h := lineHasher{each: each, seen: make(map[uint64]int), dropOldest: 1, atStart: true}
	for range lineHashBlock {
		h.dropOldest *= 37
	}
	in := bufio.NewReader(r)
	afterCR := false
	for {
		c, _, err := in.ReadRune() // a byte that is not UTF-8 reads as U+FFFD
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("hash lines: %w", err)
		}
		wasCR := afterCR
		afterCR = c == '\r'
		switch {
		case c == ' ' || c == '\t' || c == '\n' && wasCR:
		case c == '\r':
			h.add('\n')
		case c > 0xFFFF:
			hi, lo := utf16.EncodeRune(c)
			h.add(uint64(hi))
			h.add(uint64(lo))
		default:
			h.add(uint64(c))
		}
	}
	h.add(0xFFFF)
	for range lineHashBlock {
		h.shift(0)
	}
	return nil
}

// lineHasher holds the last block of characters in a ring. A line's hash is known when the ring comes round to its first one.
type lineHasher struct {
	each       func(line int, hash string)
	seen       map[uint64]int
	window     [lineHashBlock]uint64
	lineOf     [lineHashBlock]int // the line that starts at this place, 0 for none
	at         int
	sum        uint64
	dropOldest uint64 // 37^block: the weight of the character that leaves
	line       int
	atStart    bool
}

// add takes one character of the file.
func (h *lineHasher) add(c uint64) {
	h.report()
	if h.atStart {
		h.atStart = false
		h.line++
		h.lineOf[h.at] = h.line
	}
	if c == '\n' {
		h.atStart = true
	}
	h.push(c)
}

// shift moves the window on over the end of the file.
func (h *lineHasher) shift(c uint64) {
	h.report()
	h.push(c)
}

func (h *lineHasher) report() {
	if h.lineOf[h.at] == 0 {
		return
	}
	h.seen[h.sum]++
	h.each(h.lineOf[h.at], fmt.Sprintf("%x:%d", h.sum, h.seen[h.sum]))
	h.lineOf[h.at] = 0
}

func (h *lineHasher) push(c uint64) {
	h.sum = h.sum*37 + c - h.dropOldest*h.window[h.at]
	h.window[h.at] = c
	h.at = (h.at + 1) % lineHashBlock
}
