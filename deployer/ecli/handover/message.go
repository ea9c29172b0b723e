// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/ebpm/ebpm/manifest"
)

// Protocol is the version of what two instances say to each other.
const Protocol = 1

// Bounds of what is believed of a peer.
const (
	maxMessage = 128 << 10 // bytes of one message
	maxFiles   = 4096      // of one message
	maxName    = 256       // bytes of the name of a program or map, or of its layout
	maxTarget  = 4096      // bytes of what a program is attached to
	maxEntries = 1024      // programs, maps or buffers of one instance
)

// A Message is what one instance says to the other. Those that carry open files
// name them in the order in which they come.
type Message interface{ kind() string }

// Hello is the first word of a new instance. It and [Refuse] keep their fields in
// all protocols, and may get more, so that any two versions understand at least
// that they do not understand each other.
type Hello struct {
	Protocol int `json:"protocol"`
	// Revision says which of two instances is to follow the other: that with the
	// lower one never takes over. It is the generation of the Pod's template, or
	// the time of start in nanoseconds.
	Revision uint64 `json:"revision"`
}

// Refuse ends the conversation: nothing is handed over.
type Refuse struct {
	Reason string `json:"reason"`
	// Protocol is what the one that refuses speaks.
	Protocol int `json:"protocol"`
}

// Stale tells a new instance that it is older than the current one. It may wait
// for the end of the connection, and start then.
type Stale struct {
	Revision uint64 `json:"revision"`
}

// Offer is what the current instance has. Its files are the package, the cell,
// then those of each part in the order of Parts.
type Offer struct {
	// Slot is the current one's; the other one is free.
	Slot  Slot   `json:"slot"`
	Parts []Part `json:"parts"`
	// Buffers are the maps whose events the current one prints. Their files
	// follow those of the parts, one each.
	Buffers []string `json:"buffers"`
	// States are the maps that may be carried over; their files follow.
	States []manifest.State `json:"states"`
}

// Ready is what a new instance brings that the current one must hold to be able
// to go on alone: its package, the parts that it added, its buffers.
type Ready struct {
	Parts   []Part   `json:"parts"`
	Buffers []string `json:"buffers"`
	// Carried are the maps that it took over, Reset those that start empty.
	Carried []string `json:"carried"`
	Reset   []string `json:"reset"`
}

// Go tells the new instance that all was understood: it may move the cell.
type Go struct{}

// Flipped says that the cell is moved and no program of the old version runs any
// more.
type Flipped struct{}

// Drained says that all events of the old version are printed.
type Drained struct{}

// Done says that the new instance prints; the other one is its standby from now
// on.
type Done struct{}

// Retire tells the standby to let go of everything: another one takes its place.
type Retire struct{}

// A Slot is the place of an instance's programs in the dispatchers: 0 or 1.
type Slot uint32

// Other returns the slot beside s.
func (s Slot) Other() Slot { return 1 - s }

// A Part is one program and what carries it over.
type Part struct {
	Name string `json:"name"`
	// Key is equal for two programs that can stand behind the same dispatcher:
	// the same type at the same place with the same options.
	Key string `json:"key"`
	// Links is how many files hold the dispatcher in its place. The file of its
	// slots stands before them.
	Links int `json:"links"`
	// Gated is true of a program that stands at its hook itself, behind a gate:
	// there are no slots. Who holds its links keeps it running when its instance is
	// killed.
	Gated bool `json:"gated,omitempty"`
	// Swapped is true of a struct of programs (struct_ops). Its one link is that of
	// the struct itself, whose map stands before it: there is no dispatcher.
	Swapped bool `json:"swapped,omitempty"`
	// Target is what the dispatcher is attached to, for people.
	Target string `json:"target,omitempty"`
}

// head is how many files stand before the links.
func (p Part) head() int {
	if p.Gated {
		return 0
	}
	return 1
}

func (Hello) kind() string   { return "hello" }
func (Refuse) kind() string  { return "refuse" }
func (Stale) kind() string   { return "stale" }
func (Offer) kind() string   { return "offer" }
func (Ready) kind() string   { return "ready" }
func (Go) kind() string      { return "go" }
func (Flipped) kind() string { return "flipped" }
func (Drained) kind() string { return "drained" }
func (Done) kind() string    { return "done" }
func (Retire) kind() string  { return "retire" }

var kinds = map[string]reflect.Type{}

func init() {
	for _, m := range []Message{Hello{}, Refuse{}, Stale{}, Offer{}, Ready{}, Go{}, Flipped{}, Drained{}, Done{}, Retire{}} {
		kinds[m.kind()] = reflect.TypeOf(m)
	}
}

// An envelope is a message on its way.
type envelope struct {
	Kind string `json:"kind"`
	// Files is how many open files belong to the message. Those that do not fit
	// the packet follow in packets of kind "files".
	Files int             `json:"files,omitempty"`
	Body  json.RawMessage `json:"body,omitempty"`
}

// encode returns the bytes of m with that many files.
func encode(m Message, files int) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", m.kind(), err)
	}
	data, err := json.Marshal(envelope{Kind: m.kind(), Files: files, Body: body})
	switch {
	case err != nil:
		return nil, fmt.Errorf("encode %s: %w", m.kind(), err)
	case len(data) > maxMessage:
		return nil, fmt.Errorf("encode %s: %d bytes, at most %d are sent", m.kind(), len(data), maxMessage)
	case files > maxFiles:
		return nil, fmt.Errorf("encode %s: %d open files, at most %d are sent", m.kind(), files, maxFiles)
	}
	return data, nil
}

// decode reads a message and how many files belong to it. It takes nothing that
// it does not know: the version in Hello is for that.
func decode(data []byte) (Message, int, error) {
	if len(data) > maxMessage {
		return nil, 0, fmt.Errorf("%d bytes, at most %d are read", len(data), maxMessage)
	}
	read := strict
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return nil, 0, err
	}
	if e.Kind == (Hello{}).kind() || e.Kind == (Refuse{}).kind() {
		read = json.Unmarshal
	}
	if err := read(data, &e); err != nil {
		return nil, 0, err
	}
	typ, ok := kinds[e.Kind]
	if !ok {
		return nil, 0, fmt.Errorf("a message of the unknown kind %.40q", e.Kind)
	}
	v := reflect.New(typ)
	if err := read(e.Body, v.Interface()); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", e.Kind, err)
	}
	m := v.Elem().Interface().(Message)
	if c, ok := m.(interface{ files() (int, error) }); ok {
		want, err := c.files()
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", e.Kind, err)
		}
		if e.Files != want {
			return nil, 0, fmt.Errorf("%s: %d open files where it names %d", e.Kind, e.Files, want)
		}
	} else if e.Files != 0 {
		return nil, 0, fmt.Errorf("%s: %d open files where there are none", e.Kind, e.Files)
	}
	return m, e.Files, nil
}

func strict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is something behind it")
	}
	return nil
}

// files counts the files of an offer, and checks what it says.
func (o Offer) files() (int, error) {
	if o.Slot > 1 {
		return 0, fmt.Errorf("slot %d: there are 0 and 1", o.Slot)
	}
	n, err := partFiles(o.Parts)
	if err != nil {
		return 0, err
	}
	var names []string
	for _, s := range o.States {
		if len(s.Layout) > maxName {
			return 0, fmt.Errorf("map %.40q: a layout of %d bytes", s.Name, len(s.Layout))
		}
		names = append(names, s.Name)
	}
	if err := errors.Join(checkNames("buffer", o.Buffers), checkNames("map", names)); err != nil {
		return 0, err
	}
	n += 2 + len(o.Buffers) + len(o.States)
	return n, checkFiles(n)
}

// files counts the files of what a new instance brings, and checks what it says.
func (r Ready) files() (int, error) {
	n, err := partFiles(r.Parts)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(checkNames("buffer", r.Buffers), checkNames("map", r.Carried), checkNames("map", r.Reset)); err != nil {
		return 0, err
	}
	n += 1 + len(r.Buffers)
	return n, checkFiles(n)
}

func partFiles(parts []Part) (int, error) {
	var names []string
	n := 0
	for _, p := range parts {
		if p.Links < 0 || p.Links > maxFiles || len(p.Key) > maxName || len(p.Target) > maxTarget {
			return 0, fmt.Errorf("program %.40q: %d links, a key of %d bytes", p.Name, p.Links, len(p.Key))
		}
		switch {
		case p.Swapped && p.Gated:
			return 0, fmt.Errorf("program %.40q: both swapped and behind a gate", p.Name)
		case p.Swapped && p.Links != 1:
			return 0, fmt.Errorf("struct %.40q: %d links where it has one", p.Name, p.Links)
		}
		n += p.head() + p.Links
		names = append(names, p.Name)
	}
	return n, checkNames("program", names)
}

func checkNames(what string, names []string) error {
	if len(names) > maxEntries {
		return fmt.Errorf("%d %ss, at most %d are handed over", len(names), what, maxEntries)
	}
	seen := map[string]bool{}
	for _, name := range names {
		if name == "" || len(name) > maxName || seen[name] {
			return fmt.Errorf("%s %.40q: no name, a long one, or twice", what, name)
		}
		seen[name] = true
	}
	return nil
}

func checkFiles(n int) error {
	if n > maxFiles {
		return fmt.Errorf("%d open files, at most %d are handed over", n, maxFiles)
	}
	return nil
}
