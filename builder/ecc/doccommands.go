// SPDX-License-Identifier: Apache-2.0

package ecc

import "strings"

// commandClass says what a command of a documentation comment does with the
// text behind it.
type commandClass int

const (
	// classFree makes its name the key of the text, line by line.
	classFree commandClass = iota
	// classBlock takes the text up to a blank line as one value.
	classBlock
	// classDropped is as classBlock, but the value is dropped.
	classDropped
	// classWord drops the next word and is else as classFree.
	classWord
	// classLine drops the rest of its line and begins a new paragraph.
	classLine
	// classVerbatim drops the text up to the command that ends it.
	classVerbatim
	classVerbatimEnd
)

// verbatimCommands are the commands of classVerbatim with the name of what
// ends them.
var verbatimCommands = map[string]string{
	"code": "endcode", "verbatim": "endverbatim", "dot": "enddot", "msc": "endmsc",
	"htmlonly": "endhtmlonly", "latexonly": "endlatexonly", "manonly": "endmanonly",
	"rtfonly": "endrtfonly", "xmlonly": "endxmlonly", "docbookonly": "enddocbookonly",
	"internal": "endinternal", "parblock": "endparblock",
	"link": "/link", "textblock": "/textblock",
	"f$": "f$", "f(": "f)", "f[": "f]", "f{": "f}",
}

// commands are those that libclang 14 knows (spec section A7).
var commands = func() map[string]commandClass {
	all := map[string]commandClass{}
	for class, names := range map[commandClass]string{
		classBlock: `abstract arg attention author authors brief bug coclass copyright date dependency deprecated
			details discussion exception headerfile helps invariant li note ownership par performance post pre remark
			remarks result return returns retval sa security see seealso short since superclass test throw throws todo
			version warning classdesign xrefitem`,
		classDropped: `param tparam templatefield`,
		classWord:    `a anchor b c cite copybrief copydetails copydoc e em emoji extends implements memberof p ref`,
		// It is known, and takes no word.
		classFree: `n`,
		classLine: `name def fn var typedef struct union enum class interface protocol property category template
			function functiongroup method methodgroup callback const constant namespace overload section subsection
			subsubsection paragraph page subpage mainpage dir file defgroup ingroup addtogroup weakgroup example include
			dontinclude htmlinclude image if ifnot elseif else endif cond endcond line skip skipline until snippet
			private protected public pure static callgraph callergraph hideinitializer showinitializer nosubgrouping
			tableofcontents related relates relatedalso relatesalso`,
	} {
		for name := range strings.FieldsSeq(names) {
			all[name] = class
		}
	}
	for begin, end := range verbatimCommands {
		all[begin] = classVerbatim
		if begin != end {
			all[end] = classVerbatimEnd
		}
	}
	return all
}()

// findCommand returns the command that a word is taken for: itself, or the only
// known one that is one edit away. A word with _ stands for itself.
func findCommand(word string) (string, commandClass) {
	if class, ok := commands[word]; ok {
		return word, class
	}
	found := ""
	if len(word) > 1 && !strings.Contains(word, "_") {
		for name := range commands {
			if !oneEdit(word, name) {
				continue
			}
			if found != "" {
				return word, classFree
			}
			found = name
		}
	}
	if found == "" {
		return word, classFree
	}
	return found, commands[found]
}

// oneEdit reports whether a becomes b when one byte is put in, taken out or
// replaced.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) == len(b) {
		return i < len(a) && a[i+1:] == b[i+1:]
	}
	return len(b) == len(a)+1 && a[i:] == b[i+1:]
}

// htmlTags are the tags that libclang knows.
var htmlTags = func() map[string]bool {
	all := map[string]bool{}
	for name := range strings.FieldsSeq(`em strong tt i b big small strike s u font a hr span div h1 h2 h3 h4 h5 h6 code
		blockquote sub sup img br p pre ins del ul ol li dl dt dd table caption thead tfoot tbody colgroup col tr th td`) {
		all[name] = true
	}
	return all
}()
