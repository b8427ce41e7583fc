package kubelet

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Feature gates. A configuration may name any gate that upstream knows, so that
// a file written for a real kubelet is read, and no other: a misspelt gate
// would silently leave a feature off. Few of them change anything here; what is
// asked for and is not there is told as a warning.
//
// Upstream: kubernetes@v1.36 pkg/features/kube_features.go.
var gateNames = struct{ locked, on, off, needs string }{
	locked: `
APIServerTracing AggregatedDiscoveryRemoveBetaType AllowOverwriteTerminationGracePeriodSeconds AnonymousAuthConfigurableEndpoints AnyVolumeDataSource
AuthorizeNodeWithSelectors AuthorizeWithSelectors BtreeWatchCache CPUManagerPolicyOptions CRDValidationRatcheting CSIServiceAccountTokenSecrets
ConsistentListFromCache CustomResourceFieldSelectors DRAAdminAccess DeclarativeValidation DisableAllocatorDualWrite DisableNodeKubeProxyVersion
DynamicResourceAllocation ExecProbeTimeout ExternalServiceAccountTokenSigner GitRepoVolumeDriver ImageMaximumGCAge ImageVolume InOrderInformers
InPlacePodVerticalScaling JobBackoffLimitPerIndex JobManagedBy JobPodReplacementPolicy JobSuccessPolicy KubeletCgroupDriverFromCRI
KubeletFineGrainedAuthz KubeletPSI KubeletPodResourcesDynamicResources KubeletPodResourcesGet KubeletTracing LogarithmicScaleDown
MatchLabelKeysInPodAffinity MultiCIDRServiceAllocator MutableCSINodeAllocatableCount NFTablesProxyMode NodeInclusionPolicyInPodTopologySpread
NodeLogQuery NodeSwap OrderedNamespaceDeletion PodLifecycleSleepAction PodLifecycleSleepActionAllowZero PodObservedGenerationTracking
PodSchedulingReadiness PreferSameTrafficDistribution ProcMountType RecoverVolumeExpansionFailure RecursiveReadOnlyMounts RelaxedDNSSearchValidation
RelaxedEnvironmentVariableValidation ResilientWatchCacheInitialization RetryGenerateName SELinuxChangePolicy SELinuxMountReadWriteOncePod
SchedulerQueueingHints SeparateCacheWatchRPC SeparateTaintEvictionController ServiceAccountTokenJTI ServiceAccountTokenNodeBinding
ServiceAccountTokenNodeBindingValidation ServiceAccountTokenPodNodeInfo SidecarContainers StreamingCollectionEncodingToJSON
StreamingCollectionEncodingToProtobuf StructuredAuthenticationConfiguration SupplementalGroupsPolicy SystemdWatchdog TopologyManagerPolicyOptions
UserNamespacesSupport VolumeAttributesClass WinDSR WinOverlay`,
	on: `
APIResponseCompression APIServerIdentity AllowParsingUserUIDFromCertAuth AllowServiceExternalIPs AtomicFIFO
AuthorizePodWebsocketUpgradeCreatePermission CPUManagerPolicyBetaOptions CRDObservedGenerationTracking ClearingNominatedNodeNameAfterBinding
ClientsAllowCARotation ClientsAllowTLSCacheGC ComponentFlagz ComponentStatusz ConstrainedImpersonation ContainerCheckpoint ContainerRestartRules
ContextualLogging CustomCPUCFSQuotaPeriod DRAConsumableCapacity DRADeviceBindingConditions DRADeviceTaints DRAExtendedResource DRAPartitionableDevices
DRAPrioritizedList DRAResourceClaimDeviceStatus DRAResourceClaimGranularStatusAuthorization DRASchedulerFilterTimeout DeclarativeValidationBeta
DeploymentReplicaSetTerminatingReplicas DetectCacheInconsistency DisableCPUQuotaWithExclusiveCPUs EnvFiles ExtendWebSocketsToKubelet
GracefulNodeShutdown GracefulNodeShutdownBasedOnPodPriority HPAConfigurableTolerance HostnameOverride InOrderInformersBatchProcess
InPlacePodLevelResourcesVerticalScaling InPlacePodVerticalScalingInitContainers InformerResourceVersion KubeletCrashLoopBackOffMax
KubeletEnsureSecretPulledImages KubeletPodResourcesListUseActivePods KubeletSeparateDiskGC KubeletServiceAccountTokenForCredentialProviders
ListFromCacheSnapshot LoggingBetaOptions MatchLabelKeysInPodTopologySpread MatchLabelKeysInPodTopologySpreadSelectorMerge
MutablePodResourcesForSuspendedJobs MutableSchedulingDirectivesForSuspendedJobs MutatingAdmissionPolicy NodeDeclaredFeatures
NominatedNodeNameForExpectation OpenAPIEnums OpportunisticBatching PLEGOnDemandRelist PodDeletionCost PodLevelResources
PodReadyToStartContainersCondition PodTopologyLabelsAdmission PortForwardWebsockets PreventStaticPodAPIReferences RelaxedServiceNameValidation
ReloadKubeletClientCAFile ReloadKubeletServerCertificateFile RemoteRequestHeaderUID ResourceHealthStatus ResourceHealthStatusMessage
RestartAllContainersOnContainerExits RotateKubeletServerCertificate SchedulerAsyncPreemption SchedulerPopFromBackoffQ
ServiceAccountNodeAudienceRestriction ServiceCIDRStatusFieldWiping SizeBasedListCostEstimate StaleControllerConsistencyDaemonSet
StaleControllerConsistencyJob StaleControllerConsistencyReplicaSet StaleControllerConsistencyStatefulSet StatefulSetSemanticRevisionComparison
StorageNamespaceIndex StorageVersionHash StrictIPCIDRValidation StructuredAuthenticationConfigurationEgressSelector
StructuredAuthenticationConfigurationJWKSMetrics TokenRequestServiceAccountUIDValidation TopologyManagerPolicyBetaOptions
TranslateStreamCloseWebsocketRequests UnauthenticatedHTTP2DOSMitigation UnknownVersionInteroperabilityProxy UnlockWhileProcessingFIFO
WatchCacheInitializationPostStartHook WatchList WatchListClient WindowsGracefulNodeShutdown`,
	off: `
APIServingWithRoutine AllAlpha AllBeta AllowDNSOnlyNodeCSR AllowInsecureKubeletCertificateSigningRequests AllowUnsafeMalformedObjectDeletion
CBORServingAndStorage CPUManagerPolicyAlphaOptions CRIListStreaming CSIVolumeHealth ChangeContainerStatusOnKubeletRestart ClientsAllowCBOR
ClientsPreferCBOR CloudControllerManagerWatchBasedRoutesReconciliation CloudControllerManagerWebhook ClusterTrustBundle ClusterTrustBundleProjection
ConcurrentWatchObjectDecode ContainerStopSignals ControllerManagerReleaseLeaderElectionLockOnExit CoordinatedLeaderElection
CrossNamespaceVolumeDataSource DRADeviceTaintRules DRAListTypeAttributes DRANodeAllocatableResources DRAResourcePoolStatus DRAWorkloadResourceClaims
DeclarativeValidationTakeover EventedPLEG GangScheduling GenericWorkload HPAScaleToZero ImageVolumeWithDigest InPlacePodVerticalScalingExclusiveCPUs
InPlacePodVerticalScalingExclusiveMemory KMSv1 KubeletInUserNamespace KubeletRegistrationGetOnExistsOnly
LocalStorageCapacityIsolationFSQuotaMonitoring LoggingAlphaOptions ManifestBasedAdmissionControlConfig MaxUnavailableStatefulSet MemoryQoS
MutablePVNodeAffinity NativeHistograms PersistentVolumeClaimUnusedSinceTime PodAndContainerStatsFromCRI PodCertificateRequest PodLevelResourceManagers
PodLogsQuerySplitStreams PodsAPI QOSReserved ReduceDefaultCrashLoopBackOffDecay RuntimeClassInImageCriApi SELinuxMount SchedulerAsyncAPICalls
ShardedListAndWatch StorageCapacityScoring StorageVersionAPI StorageVersionMigrator TaintTolerationComparisonOperators TopologyAwareWorkloadScheduling
TopologyManagerPolicyAlphaOptions UserNamespacesHostNetworkSupport VolumeLimitScaling WindowsCPUAndMemoryAffinity WindowsHostNetwork
WorkloadAwarePreemption WorkloadWithJob`,
	needs: `
ClusterTrustBundleProjection=ClusterTrustBundle DRADeviceBindingConditions=DRAResourceClaimDeviceStatus
DRAResourceClaimGranularStatusAuthorization=DRAResourceClaimDeviceStatus DRAWorkloadResourceClaims=GenericWorkload
ExtendWebSocketsToKubelet=NodeDeclaredFeatures GangScheduling=GenericWorkload GracefulNodeShutdownBasedOnPodPriority=GracefulNodeShutdown
InPlacePodLevelResourcesVerticalScaling=PodLevelResources InPlacePodLevelResourcesVerticalScaling=NodeDeclaredFeatures
InPlacePodVerticalScalingInitContainers=NodeDeclaredFeatures MatchLabelKeysInPodTopologySpreadSelectorMerge=MatchLabelKeysInPodTopologySpread
PodLevelResourceManagers=PodLevelResources ResourceHealthStatusMessage=ResourceHealthStatus RestartAllContainersOnContainerExits=ContainerRestartRules
RestartAllContainersOnContainerExits=NodeDeclaredFeatures StaleControllerConsistencyDaemonSet=AtomicFIFO StaleControllerConsistencyJob=AtomicFIFO
StaleControllerConsistencyReplicaSet=AtomicFIFO StaleControllerConsistencyStatefulSet=AtomicFIFO TopologyAwareWorkloadScheduling=GenericWorkload
UserNamespacesHostNetworkSupport=NodeDeclaredFeatures WindowsGracefulNodeShutdown=GracefulNodeShutdown WorkloadAwarePreemption=GangScheduling
WorkloadWithJob=GenericWorkload StorageVersionAPI=APIServerIdentity UnknownVersionInteroperabilityProxy=APIServerIdentity`,
}

// gatesWithEffect change what this kubelet does, or what it accepts.
var gatesWithEffect = []string{"PodLogsQuerySplitStreams", "CustomCPUCFSQuotaPeriod", "KubeletCrashLoopBackOffMax", "GracefulNodeShutdown",
	"GracefulNodeShutdownBasedOnPodPriority", "RotateKubeletServerCertificate", "LoggingBetaOptions"}

// gatesWithout are on by default upstream, and their features are not here.
var gatesWithout = []string{"ComponentFlagz", "ComponentStatusz", "ContainerCheckpoint", "DynamicResourceAllocation", "KubeletPSI",
	"KubeletPodResourcesGet", "KubeletTracing"}

// gates says of every gate whether it is open.
type gates map[string]bool

// newGates opens and closes what is asked for, and names what has no effect.
func newGates(asked map[string]bool) (open gates, warnings []string, err error) {
	open = gates{}
	locked := strings.Fields(gateNames.locked)
	for _, name := range append(locked, strings.Fields(gateNames.on)...) {
		open[name] = true
	}
	for _, name := range strings.Fields(gateNames.off) {
		open[name] = false
	}
	defaults := maps.Clone(open)
	var wrong []error
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		standard, known := defaults[name]
		switch on := asked[name]; {
		case !known:
			return nil, nil, fmt.Errorf("unrecognized feature gate: %s", name)
		case !on && slices.Contains(locked, name):
			wrong = append(wrong, fmt.Errorf("cannot set feature gate %s to false, feature is locked to true", name))
		case on != standard && !slices.Contains(gatesWithEffect, name), on && slices.Contains(gatesWithout, name):
			warnings = append(warnings, fmt.Sprintf("featureGates: %s=%v is accepted and has no effect", name, on))
		}
		open[name] = asked[name]
	}
	missing := map[string][]string{}
	for _, pair := range strings.Fields(gateNames.needs) {
		if name, other, _ := strings.Cut(pair, "="); open[name] && !open[other] {
			missing[name] = append(missing[name], other)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		wrong = append(wrong, fmt.Errorf("%s is enabled, but depends on features that are disabled: %v", name, missing[name]))
	}
	return open, warnings, errors.Join(wrong...)
}
