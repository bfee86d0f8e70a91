package objectstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/logging"
)

// SSE says which encryption at rest the store is asked for, and must confirm, with every write.
type SSE string

// The kinds of encryption at rest. The values are those of the header x-amz-server-side-encryption.
const (
	SSENone SSE = "none"    // none is asked for; what the bucket does by itself is not looked at
	SSES3   SSE = "AES256"  // with keys of the store
	SSEKMS  SSE = "aws:kms" // with a key of the key management service
)

// Checksums says when requests carry x-amz-checksum headers, which some S3-compatible stores reject and buckets with
// object lock demand.
type Checksums string

// The checksum modes. In both each write is signed together with the SHA-256 of its content.
const (
	// ChecksumsWhenSupported sends the SHA-256 of each object to be stored with it and checked on reading. The default.
	ChecksumsWhenSupported Checksums = "when_supported"
	// ChecksumsWhenRequired sends none that the operation does not demand.
	ChecksumsWhenRequired Checksums = "when_required"
)

// S3Options configures OpenS3. Bucket and SSE must be given.
type S3Options struct {
	Bucket string
	// Prefix is put before every key, with a '/' between; "" for none. Leading and trailing '/' do not matter.
	Prefix string
	// Region is that of the bucket. "" takes the one of the SDK's environment or shared files, or us-east-1 where an
	// endpoint is given.
	Region string
	// Endpoint is the URL of an S3-compatible store: scheme, host and port. "" is Amazon's own for the region.
	Endpoint string
	// PathStyle puts the bucket's name into the path instead of the host name.
	PathStyle bool
	// SSE must be said, also where it is SSENone.
	SSE SSE
	// SSEKMSKeyID is a key id, key ARN, alias or alias ARN, only with SSEKMS; "" is the store's default key.
	SSEKMSKeyID string
	// Checksums is ChecksumsWhenSupported where it is "".
	Checksums Checksums
	// Profile is the section of the shared AWS files to use; empty for the SDK's own choice.
	Profile string
	// RoleARN is a role to assume with the credentials found; "" for none.
	RoleARN string
	// AccessKeyID and SecretAccessKey are static credentials, given both or not at all. Without them the SDK's usual
	// chain is asked: environment, shared files, web identity, container and instance roles.
	AccessKeyID     string
	SecretAccessKey Secret
	// CAFile holds certificates in PEM that are trusted beside the system's; "" for none.
	CAFile string
	// MaxAttempts is how often a request is sent at most when the store or the network fails; 0 means 8, which with
	// the pauses between them is about half a minute.
	MaxAttempts int
}

// S3 is a Store in a bucket of Amazon S3 or of a store that speaks its protocol.
//
// Each object is written by one PutObject: no multipart uploads, nothing half-written, and memory for the content is
// the caller's alone. Each write's answer is checked for the encryption asked for, and for the checksum if it repeats
// one. All methods may be called concurrently.
type S3 struct {
	client  *s3.Client
	http    *http.Client
	options S3Options // with defaults filled in and Prefix normalized: "" or ending with '/'
	backoff retry.BackoffDelayer
}

// The longest wait between two attempts, and how long a connection may stand still in either direction (no byte
// sent, none received) before it counts as broken. There is no limit for a request as a whole: a large object over a
// slow line takes its time.
const (
	maxBackoff = 10 * time.Second
	stallLimit = time.Minute
)

// tuning holds what only tests set.
type tuning struct {
	stallLimit time.Duration       // 0 means the constant
	maxBackoff time.Duration       // 0 means the constant
	client     []func(*s3.Options) // applied last
}

// OpenS3 prepares the store; it sends no request yet (CheckBucket does). It returns one error that names everything
// that is wrong with the options. Close it after use. ctx bounds only the look-up of shared configuration.
func OpenS3(ctx context.Context, options S3Options) (*S3, error) {
	return openS3(ctx, options, tuning{})
}

func openS3(ctx context.Context, options S3Options, tuned tuning) (*S3, error) {
	if err := options.complete(); err != nil {
		return nil, fmt.Errorf("open S3 store: %w", err)
	}
	if tuned.stallLimit == 0 {
		tuned.stallLimit = stallLimit
	}
	if tuned.maxBackoff == 0 {
		tuned.maxBackoff = maxBackoff
	}
	builder, err := buildTransport(options.CAFile, tuned)
	if err != nil {
		return nil, fmt.Errorf("open S3 store: %w", err)
	}
	backoff := retry.NewExponentialJitterBackoff(tuned.maxBackoff)
	newRetryer := func() aws.Retryer {
		standard := retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = options.MaxAttempts
			o.Backoff = backoff
			// The attempts are bounded per request; a budget shared by all of them would make one workspace's
			// trouble that of its neighbours.
			o.RateLimiter = ratelimit.None
		})
		// Two conditional writes met; S3 asks to send this one again (Amazon S3 User Guide, "Conditional writes").
		return retry.AddWithErrorCodes(standard, "ConditionalRequestConflict", "OperationAborted")
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(builder),
		config.WithRetryer(newRetryer),
		config.WithLogger(logging.Nop{}),
	}
	if options.Region != "" {
		load = append(load, config.WithRegion(options.Region))
	}
	if options.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(options.Profile))
	}
	if options.AccessKeyID != "" {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(options.AccessKeyID, options.SecretAccessKey.Reveal(), "")))
	}
	shared, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("open S3 store: read the AWS configuration: %w", err)
	}
	if shared.Region == "" {
		if options.Endpoint == "" {
			return nil, errors.New("open S3 store: no region: give the bucket's region")
		}
		shared.Region = "us-east-1" // what S3-compatible stores expect that know no regions
	}
	options.Region = shared.Region
	if changed, ok := shared.HTTPClient.(*awshttp.BuildableClient); ok {
		builder = changed // AWS_CA_BUNDLE was added to it
	}
	client, ok := builder.Freeze().(*http.Client)
	if !ok {
		panic("objectstore: internal error: the SDK's HTTP client is of another type")
	}
	shared.HTTPClient = client
	if options.RoleARN != "" {
		provider := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(shared), options.RoleARN, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "hourvault"
		})
		shared.Credentials = aws.NewCredentialsCache(provider)
	}
	store := &S3{http: client, options: options, backoff: backoff}
	store.client = s3.NewFromConfig(shared, append([]func(*s3.Options){func(o *s3.Options) {
		if options.Endpoint != "" {
			o.BaseEndpoint = aws.String(options.Endpoint)
		}
		o.UsePathStyle = options.PathStyle
		// Checksums of requests are set by hand, those of answers asked for where they apply: the SDK would send
		// bodies in its chunked encoding, which few other stores know, and compare ranges with the whole's checksum.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.DisableLogOutputChecksumValidationSkipped = true
		// Snapshots are named by time, so a wrong clock must be seen and not be made up for.
		o.DisableClockSkewCorrection = true
		o.DisableS3ExpressSessionAuth = aws.Bool(true)
	}}, tuned.client...)...)
	return store, nil
}

// complete checks the options and fills in the defaults that need no look outside.
func (o *S3Options) complete() error {
	var faults []error
	fault := func(format string, arguments ...any) { faults = append(faults, fmt.Errorf(format, arguments...)) }
	if o.Bucket == "" {
		fault("no bucket")
	}
	if o.Prefix = strings.Trim(o.Prefix, "/"); o.Prefix != "" {
		if slices.ContainsFunc(strings.Split(o.Prefix, "/"), func(s string) bool { return segmentFault(s) != "" }) || len(o.Prefix) > 100 {
			fault("prefix %q: up to 100 letters, digits, '-', '_', '.', '=' in segments separated by '/' are possible", o.Prefix)
		}
		o.Prefix += "/"
	}
	switch o.SSE {
	case SSENone, SSES3, SSEKMS:
	case "":
		fault("no sse: say AES256, aws:kms or none")
	default:
		fault("sse %q: AES256, aws:kms and none are possible", string(o.SSE))
	}
	if o.SSEKMSKeyID != "" && o.SSE != SSEKMS {
		fault("a KMS key id goes only with sse aws:kms")
	}
	switch o.Checksums {
	case ChecksumsWhenSupported, ChecksumsWhenRequired:
	case "":
		o.Checksums = ChecksumsWhenSupported
	default:
		fault("checksums %q: when_supported and when_required are possible", string(o.Checksums))
	}
	if (o.AccessKeyID == "") != o.SecretAccessKey.IsZero() {
		fault("access key id and secret access key: one is given without the other")
	}
	if o.Endpoint != "" {
		endpoint, err := url.Parse(o.Endpoint)
		switch {
		case err != nil || endpoint.Host == "" || (endpoint.Scheme != "https" && endpoint.Scheme != "http"):
			fault("endpoint: a URL like https://s3.example.net is needed")
		case endpoint.User != nil || endpoint.RawQuery != "":
			fault("endpoint: only scheme, host and port; credentials go elsewhere")
		}
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 8
	}
	return errors.Join(faults...)
}

// Close closes the connections that are idle. Requests under way go on.
func (s *S3) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// Location returns "s3://bucket/prefix".
func (s *S3) Location() string {
	return "s3://" + s.options.Bucket + "/" + strings.TrimSuffix(s.options.Prefix, "/")
}

// name is the full key in the bucket.
func (s *S3) name(key string) *string { return aws.String(s.options.Prefix + key) }

// pause waits before the next attempt, or until the context ends.
func (s *S3) pause(ctx context.Context, attempt int) error {
	delay, err := s.backoff.BackoffDelay(attempt, nil)
	if err != nil {
		return err
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
