// SPDX-License-Identifier: Apache-2.0

package manifest

import "errors"

// Kind says what sort of failure an error is. The command line turns it into
// its exit code, so the numbers are API.
type Kind int

// The kinds, which are the exit codes of ebpm.
const (
	KindFailure      Kind = 1 // anything that has no kind of its own
	KindUsage        Kind = 2 // the command's words are off
	KindNotFound     Kind = 3 // a package, tag, node or release that does not exist
	KindUnverified   Kind = 4 // bytes that are not what they were said to be
	KindPrecondition Kind = 5 // the kernel, its BTF, a tool or a right is missing
	KindConflict     Kind = 6 // somebody else's object, or somebody else was first
	KindPartial      Kind = 7 // some nodes failed
)

// Kinds lists every kind with the words that the documentation uses for it.
func Kinds() []struct {
	Kind Kind
	Text string
} {
	return []struct {
		Kind Kind
		Text string
	}{
		{KindFailure, "failure"},
		{KindUsage, "usage: the command's words are off"},
		{KindNotFound, "not found: a package, tag, node or release that does not exist"},
		{KindUnverified, "verification refused: bytes are not what they were said to be"},
		{KindPrecondition, "precondition: a kernel feature, BTF, a tool or a right is missing"},
		{KindConflict, "conflict: another owner's object, or a concurrent change"},
		{KindPartial, "some nodes failed"},
	}
}

// Error gives an error its kind, and a sentence that says what to do next.
type Error struct {
	Kind Kind
	// Advice is a full sentence for the user; it may be empty.
	Advice string
	Err    error
}

// Error returns the text of the wrapped error; the advice is printed apart.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// WithKind gives err a kind and an optional advice. A nil err stays nil.
func WithKind(kind Kind, err error, advice string) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Advice: advice, Err: err}
}

// KindOf returns the kind of the outermost [Error] in err's chain, else
// [KindFailure].
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindFailure
}

// AdviceOf returns the outermost advice in err's chain that is not empty.
func AdviceOf(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Advice != "" {
			return e.Advice
		}
		err = e.Err
	}
	return ""
}
