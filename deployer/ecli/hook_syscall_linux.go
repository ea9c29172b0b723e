// SPDX-License-Identifier: Apache-2.0

package ecli

func init() {
	registerHook(&hook{
		sections: []string{"syscall"},
		check: func(*plannedProgram) error {
			return unsupported("a program of type syscall is attached to nothing: it runs when another program asks for it by bpf(BPF_PROG_RUN), which this runner never does")
		},
	})
}
