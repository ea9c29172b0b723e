// SPDX-License-Identifier: Apache-2.0

package ecli

import (
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/cilium/ebpf"

	"github.com/ebpm/ebpm/manifest"
)

const (
	// maxTerminationMessage is what is left of the 4,096 bytes that a kubelet
	// keeps, the last ones, of a termination message.
	maxTerminationMessage = 4000
	// maxFullMessage bounds a verifier's log on a terminal.
	maxFullMessage = 1 << 20
	gapMark        = "\n[... the verifier's log is cut here ...]\n"
)

// FullMessage returns the text of err, and the whole log of the verifier where
// it refused a program; of more than 1 MiB the middle is left out.
func FullMessage(err error) string {
	return cut(err.Error(), verifierLog(err), maxFullMessage)
}

// TerminationMessage returns at most 4,000 bytes about err for a Pod's
// termination message: the cause, what to do, and the end of the verifier's
// log behind a mark where the log had to be cut.
func TerminationMessage(err error) []byte {
	cause := err.Error()
	if advice := manifest.AdviceOf(err); advice != "" {
		cause += "\n" + advice
	}
	return []byte(cut(cause, verifierLog(err), maxTerminationMessage))
}

func verifierLog(err error) string {
	var v *ebpf.VerifierError
	if !errors.As(err, &v) {
		return ""
	}
	return strings.TrimSpace(strings.Join(v.Log, "\n"))
}

// cut joins a cause and a log to at most limit bytes: the start of the cause
// and the end of the log stay.
func cut(cause, log string, limit int) string {
	if room := limit / 2; log != "" && len(cause) > room {
		cause = validPrefix(cause, room)
	}
	switch {
	case log == "":
		return validPrefix(cause, limit)
	case len(cause)+1+len(log) <= limit:
		return cause + "\n" + log
	}
	return cause + gapMark + validSuffix(log, limit-len(cause)-len(gapMark))
}

func validPrefix(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func validSuffix(s string, n int) string {
	start := len(s) - n
	for start < len(s) && !utf8.RuneStart(s[start]) {
		start++
	}
	return s[start:]
}
