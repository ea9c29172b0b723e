// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"

	"github.com/ebpm/ebpm/manifest"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// ErrUnsupported is what [Client.Delete] returns where a registry does not allow
// to delete.
var ErrUnsupported = errors.New("the registry does not allow to delete")

var errStalled = fmt.Errorf("nothing came or went for %s", idleTimeout)

// requestError is an error of a request itself, not of what the answer says.
type requestError struct{ err error }

func (e *requestError) Error() string { return e.err.Error() }
func (e *requestError) Unwrap() error { return e.err }

// readError is an error while the body of an answer was read.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// credentialError is an error of the Docker config or of one of its helpers.
type credentialError struct{ err error }

func (e *credentialError) Error() string { return e.err.Error() }
func (e *credentialError) Unwrap() error { return e.err }

// unverified says that bytes are not what they were said to be.
func unverified(err error) error {
	return manifest.WithKind(manifest.KindUnverified, err,
		"Nothing of it was used or stored. Try again; if it stays so, the registry or something on the way changes or damages packages.")
}

func hasKind(err error) bool {
	var e *manifest.Error
	return errors.As(err, &e)
}

// temporary reports whether another attempt may succeed.
func temporary(err error) bool {
	if errors.Is(err, errStalled) {
		return true
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	if response, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		return response.StatusCode == http.StatusRequestTimeout ||
			response.StatusCode == http.StatusTooManyRequests ||
			response.StatusCode >= 500 && response.StatusCode != http.StatusNotImplemented
	}
	if _, ok := errors.AsType[*readError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return !dns.IsNotFound
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return true
	}
	for _, target := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, target) {
			return true
		}
	}
	request, ok := errors.AsType[*url.Error](err)
	return ok && request.Timeout()
}

// explain names the operation and the reference that an error is about. What is
// not found has that kind.
func explain(op string, ref manifest.Reference, err error) error {
	if err == nil {
		return nil
	}
	for {
		e, ok := errors.AsType[*oras.CopyError](err)
		if !ok {
			break
		}
		err = e.Err
	}
	wrapped := fmt.Errorf("%s %s: %w", op, ref, err)
	if errors.Is(err, errdef.ErrNotFound) && !hasKind(err) {
		return manifest.WithKind(manifest.KindNotFound, wrapped, "")
	}
	return wrapped
}

// diagnose makes of an error of a registry one that a user can act on: it names
// the registry, and has a kind and advice.
func diagnose(ref manifest.Reference, err error) error {
	if err == nil || hasKind(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	host := ref.Registry
	login := fmt.Sprintf("Log in with `docker login %s`, or point DOCKER_CONFIG at a folder whose config.json has an account that may do this.", host)
	if _, ok := errors.AsType[*credentialError](err); ok {
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("read credentials for %s: %w", host, err),
			"Check the Docker config ($DOCKER_CONFIG/config.json, else ~/.docker/config.json) and the credential helper that it names.")
	}
	if errors.Is(err, auth.ErrBasicCredentialNotFound) {
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s wants a login, and the Docker config has none for it", host), login)
	}
	if response, ok := errors.AsType[*errcode.ErrorResponse](err); ok {
		switch code := response.StatusCode; {
		case code == http.StatusUnauthorized || code == http.StatusForbidden:
			return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s denies access: %w", host, err), login)
		case code == http.StatusNotFound:
			return manifest.WithKind(manifest.KindNotFound, &absentError{host, err}, notFoundAdvice(ref))
		case code == http.StatusTooManyRequests:
			return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s asks for fewer requests: %w", host, err), "Try again later.")
		case code >= 500:
			return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s fails: %w", host, err), "Try again later, or look at the registry's log.")
		}
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s refuses: %w", host, err), "")
	}
	if errors.Is(err, errdef.ErrNotFound) {
		return manifest.WithKind(manifest.KindNotFound, &absentError{host, err}, notFoundAdvice(ref))
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s speaks plain HTTP, not HTTPS", host),
			fmt.Sprintf("If you trust the network to it, set EBPM_PLAIN_HTTP=%s, or `plainHTTP` in the configuration.", host))
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("the certificate of registry %s is not trusted: %w", host, err),
			"Have ebpm trust the CA that signed it, and check that the certificate names this host.")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s does not speak TLS: %w", host, err), "Check the host and the port.")
	}
	if _, ok := errors.AsType[*readError](err); ok {
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s broke off: %w", host, err), "Try again; nothing of it was used or stored.")
	}
	if _, ok := errors.AsType[*requestError](err); ok {
		return manifest.WithKind(manifest.KindFailure, fmt.Errorf("registry %s cannot be reached: %w", host, err),
			"Check that the registry runs, its name and port, and the network from here to it.")
	}
	return manifest.WithKind(manifest.KindFailure, err, "")
}

// absentError says that a registry does not have what was asked for, which those
// who add to the error name. That of oras-go and of the registry would name it
// again.
type absentError struct {
	host string
	err  error
}

func (e *absentError) Error() string { return fmt.Sprintf("registry %s does not have it", e.host) }
func (e *absentError) Unwrap() error { return e.err }

func notFoundAdvice(ref manifest.Reference) string {
	if ref.Tag == "" {
		return "Check the repository and the digest."
	}
	return "Check the name and the tag, or push it first with `ebpm push`."
}
