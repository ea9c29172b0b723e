// SPDX-License-Identifier: Apache-2.0

package deployer

import "embed"

// RBAC holds the manifests with the least rights that ebpm needs in a cluster:
// rbac/operator.yaml to deploy, rbac/viewer.yaml to look.
//
//go:embed rbac/*.yaml
var RBAC embed.FS
