// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// imageFlags are the words of push and pull.
type imageFlags struct {
	file        string // of the module
	annotations []string
	prompt      bool
	account     *account
	image       string
}

// account is passed to ebpm.
type account struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// parseImageFlags reads the words of `ecli push` or `ecli pull`.
func parseImageFlags(command string, words []string) (f *imageFlags, help bool, err error) {
	f = &imageFlags{file: "app.wasm"}
	var a account
	options := []option{
		{long: "--prompt", short: 'i', set: on(&f.prompt)},
		{long: "--username", short: 'u', value: "USERNAME", set: text(&a.Username)},
		{long: "--password", short: 'p', value: "PASSWORD", set: text(&a.Password)},
		{long: "--help", short: 'h', set: on(&help)},
	}
	if command == "push" {
		options = append(options,
			option{long: "--module", short: 'm', value: "MODULE", set: text(&f.file)},
			option{long: "--annotations", short: 'a', value: "ANNOTATIONS", many: true, set: func(s string) error {
				if !strings.Contains(s, "=") {
					return errors.New("it is not KEY=VALUE")
				}
				f.annotations = append(f.annotations, s)
				return nil
			}})
	} else {
		options = append(options, option{long: "--output", short: 'o', value: "OUTPUT", set: text(&f.file)})
	}
	rest, seen, err := parseWords(words, options, true)
	if err != nil || help {
		return f, help, err
	}
	var missing []string
	switch user, password := seen["--username"], seen["--password"]; {
	case f.prompt && (user || password):
		with := ""
		if user {
			with += "\n  --username <USERNAME>"
		}
		if password {
			with += "\n  --password <PASSWORD>"
		}
		return nil, false, errors.New("the argument '--prompt' cannot be used with:" + with)
	case user && !password:
		missing = append(missing, "--password <PASSWORD>")
	case password && !user:
		missing = append(missing, "--username <USERNAME>")
	case user:
		f.account = &a
	}
	if len(rest) == 0 {
		missing = append(missing, "<IMAGE>")
	}
	switch {
	case len(missing) > 0:
		return nil, false, errMissing(missing...)
	case len(rest) > 1:
		return nil, false, fmt.Errorf("unexpected argument '%s' found", rest[1])
	case rest[0] == "" || rest[0][0] == '-':
		return nil, false, fmt.Errorf("invalid value '%s' for '<IMAGE>': it is no reference", rest[0])
	}
	f.image = rest[0]
	return f, false, nil
}

// image pushes or pulls, by the ebpm beside this program.
func image(ctx context.Context, command string, f *imageFlags, stdin io.Reader, stdout, stderr io.Writer) error {
	if f.prompt {
		var err error
		if f.account, err = ask(ctx, stdin, stderr); err != nil {
			return err
		}
	}
	call := ebpmCall{args: []string{command, "--module=" + f.file}, stdout: stdout, stderr: stderr}
	for _, a := range f.annotations {
		call.args = append(call.args, "--annotation="+a)
	}
	if f.account != nil {
		data, err := json.Marshal(f.account) //nolint:gosec // ebpm is to have the password
		if err != nil {
			return err
		}
		call.args, call.stdin = append(call.args, "--account"), data
	}
	call.args = append(call.args, f.image)
	if err := runEbpm(ctx, call); err != nil {
		return fmt.Errorf("%s %s: %w", command, f.image, err)
	}
	return nil
}

// ask asks for an account on the terminal.
func ask(ctx context.Context, stdin io.Reader, stderr io.Writer) (*account, error) {
	file, ok := stdin.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return nil, errors.New("--prompt needs a terminal; give --username and --password, or log in with `docker login`")
	}
	// A signal must not leave the terminal mute.
	state, err := term.GetState(int(file.Fd()))
	if err != nil {
		return nil, fmt.Errorf("ask for the account: %w", err)
	}
	defer func() { _ = term.Restore(int(file.Fd()), state) }()
	var a account
	done := make(chan error, 1)
	go func() {
		var err error
		a, err = readAccount(file, stderr)
		done <- err
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case err := <-done:
		if err != nil {
			return nil, fmt.Errorf("ask for the account: %w", err)
		}
		return &a, nil
	}
}

func readAccount(terminal *os.File, stderr io.Writer) (a account, err error) {
	fmt.Fprint(stderr, "Username: ")
	// The terminal gives a line at a time, so that nothing of the next is lost.
	line, err := bufio.NewReaderSize(io.LimitReader(terminal, 4096), 4096).ReadString('\n')
	if err != nil {
		return a, err
	}
	a.Username = strings.TrimRight(line, "\r\n")
	fmt.Fprint(stderr, "Password: ")
	password, err := term.ReadPassword(int(terminal.Fd()))
	fmt.Fprintln(stderr)
	a.Password = string(password)
	return a, err
}
