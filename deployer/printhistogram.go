// SPDX-License-Identifier: Apache-2.0

package deployer

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/ebpm/ebpm/manifest"
)

// A histogramEvent is a line that the runner printed as JSON of a map whose values
// are drawn.
type histogramEvent struct {
	cpu   *int64
	key   json.RawMessage
	other []jsonMember // of the value, without the slots
	slots []uint64
}

// A jsonMember is one member of an object.
type jsonMember struct {
	name  string
	value json.RawMessage
}

// decodeHistogram returns the histogram that an event is, if it is one.
func decodeHistogram(event json.RawMessage) (*histogramEvent, bool) {
	var pair struct {
		CPU   *int64          `json:"cpu"`
		Key   json.RawMessage `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	if json.Unmarshal(event, &pair) != nil || pair.Key == nil {
		return nil, false
	}
	members, err := jsonMembers(pair.Value)
	if err != nil {
		return nil, false
	}
	h := &histogramEvent{cpu: pair.CPU, key: pair.Key}
	found := false
	for _, m := range members {
		if m.name != manifest.SlotsMember {
			h.other = append(h.other, m)
			continue
		}
		found = true
		if json.Unmarshal(m.value, &h.slots) != nil {
			return nil, false
		}
	}
	return h, found
}

// jsonMembers returns the members of an object in their order.
func jsonMembers(object json.RawMessage) ([]jsonMember, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is no object")
	}
	var members []jsonMember
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := jsonMember{name: name.(string)} // of an object they are strings
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		members = append(members, m)
	}
	return members, nil
}

// lines returns the histogram as the runner prints it as text.
func (h *histogramEvent) lines(style manifest.Histogram) []string {
	key := []string{"key = "}
	if members, err := jsonMembers(h.key); err == nil {
		for _, m := range members {
			key = append(key, valueText(m.value))
		}
	} else {
		key = append(key, valueText(h.key))
	}
	lines := []string{strings.Join(key, " ")}
	if h.cpu != nil {
		lines = append(lines, "cpu = "+strconv.FormatInt(*h.cpu, 10))
	}
	for _, m := range h.other {
		text := valueText(m.value)
		if text == `""` {
			text = "" // it is no cell, which must not be empty
		}
		lines = append(lines, manifest.TerminalText(m.name, false)+" = "+text)
	}
	drawn := string(style.Append(nil, h.slots, manifest.TerminalText(style.Unit, false)))
	if drawn == "" {
		return lines
	}
	return append(append(lines, ""), strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")...)
}
