// SPDX-License-Identifier: Apache-2.0

package ecli

func init() {
	registerHook(&hook{sections: []string{"flow_dissector"}, attach: attachNetns})
}
