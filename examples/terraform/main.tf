# The same endpoint as `sagemaker-deploy deploy llm …`. Name the image by digest: if a tag moves, new instances run another
# image than old ones.
terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40"
    }
  }
}

variable "name" {
  type    = string
  default = "llm"
}

variable "image" {
  type        = string
  description = "ECR image URI by digest"
}

variable "role_arn" {
  type        = string
  description = "execution role; `sagemaker-deploy role` makes one"
}

variable "model_id" {
  type    = string
  default = "Qwen/Qwen3-8B"
}

variable "instance_type" {
  type    = string
  default = "ml.g6.2xlarge"
}

variable "health_check_seconds" {
  type        = number
  default     = 1200
  description = "until the first 200 on /ping: 60 for each GB of weights, at most 3600"
}

# Without a name the provider generates one, so a new model exists before the old one is deleted.
resource "aws_sagemaker_model" "this" {
  execution_role_arn = var.role_arn

  primary_container {
    image = var.image
    environment = {
      HF_MODEL_ID       = var.model_id
      HF_MODEL_QUANTIZE = "auto"
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_sagemaker_endpoint_configuration" "this" {
  name_prefix = "${var.name}-"

  production_variants {
    variant_name           = "AllTraffic"
    model_name             = aws_sagemaker_model.this.name
    initial_instance_count = 1
    instance_type          = var.instance_type

    container_startup_health_check_timeout_in_seconds = var.health_check_seconds

    routing_config {
      routing_strategy = "LEAST_OUTSTANDING_REQUESTS"
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_sagemaker_endpoint" "this" {
  name                 = var.name
  endpoint_config_name = aws_sagemaker_endpoint_configuration.this.name
}

# Instances follow the requests in flight, as with `sagemaker-deploy autoscale`.
resource "aws_appautoscaling_target" "this" {
  service_namespace  = "sagemaker"
  resource_id        = "endpoint/${aws_sagemaker_endpoint.this.name}/variant/AllTraffic"
  scalable_dimension = "sagemaker:variant:DesiredInstanceCount"
  min_capacity       = 1
  max_capacity       = 4
}

resource "aws_appautoscaling_policy" "this" {
  name               = "${var.name}-in-flight"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension
  policy_type        = "TargetTrackingScaling"

  target_tracking_scaling_policy_configuration {
    target_value       = 8
    scale_in_cooldown  = 600
    scale_out_cooldown = 60

    predefined_metric_specification {
      predefined_metric_type = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
    }
  }
}

output "endpoint_name" {
  value = aws_sagemaker_endpoint.this.name
}
